/* rows.h - the traits of every operator, each defined in a file of this folder. */
#ifndef DAVID_DAVI_OPERATORS_ROWS_H
#define DAVID_DAVI_OPERATORS_ROWS_H

#include "engine/davi/operators.h"

#define OPERATOR(id, name) extern const struct operator_traits name##_operator;
#define TASK(...)
#include "engine/davi/tasks.def"
#undef OPERATOR
#undef TASK

/* Scratch of an operator that needs one row of x and one of y. */
size_t two_rows(struct extent x);

#endif
