/* scalar.h - the numbers that a network gets with a row of its input, each through its own
 * embedding. */
#ifndef DAVID_GRAPH_SCALAR_H
#define DAVID_GRAPH_SCALAR_H

enum scalar {
    SCALAR_TIME,  /* t, 0..999 */
    SCALAR_SIGMA, /* 1000 sigma */
    SCALAR_LEVEL, /* of the operator, times its gain (engine/README.md section 9) */
    SCALARS
};

#endif
