/* losses.h - the CPU's ops of engine/graph/backend/losses.h, in three files: losses.c has the table
 * and most ops, the hybrid loss and the energy score have a file each.
 *
 * Sums are double and run through the images in order, whatever the number of threads; threads
 * divide the rows. */
#ifndef DAVID_CPU_LOSSES_H
#define DAVID_CPU_LOSSES_H

#include "engine/cpu/internal.h"
#include "engine/graph/backend/losses.h"

extern const struct loss_ops cpu_losses;

enum status cpu_hybrid_loss(struct backend *b, const struct hybrid_args *a, struct error *err);
size_t cpu_energy_scratch(uint32_t w, uint32_t h);
enum status cpu_energy_score(struct backend *b, const struct energy_args *a, double *value,
                             struct error *err);

#endif
