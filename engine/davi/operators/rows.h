/* rows.h - the operators, one file each: rows of operators.c's table. */
#ifndef DAVID_DAVI_OPERATORS_ROWS_H
#define DAVID_DAVI_OPERATORS_ROWS_H

#include "engine/davi/operators.h"

extern const struct operator_traits blur_operator, pool2_operator, pool4_operator, mask_operator,
    identity_operator, gray_operator, jpeg_operator;

/* Scratch of those that need a row in and a row out. */
size_t two_rows(struct extent x);

#endif
