/* The work of a network on a card, op by op, and the time that it takes at least (the floor).
 *
 *   forecast [--arch ffhq256] [--batch 1,8,32] [--tflops 798] [--tbytes 3.0] [--json]
 *
 * The list of ops is the network's own, folded and fused as it is served (ledger.h), in BF16. An
 * op's floor is the larger of its operations over the rate of the matrix units and its bytes over
 * the rate of the memory. Needs no GPU. Prints one table per batch size, or one JSON object a line:
 * {"arch", "batch", "ops": [{op, what, count, gflop, mb, floor_us}], ...}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/program.h"
#include "engine/nets/unet.h"
#include "tests/gpu/batches.h"
#include "tests/gpu/ledger.h"

enum { MAX_BATCHES = 8, MAX_BATCH = 256 };

struct options {
    const char *arch;
    uint32_t batch[MAX_BATCHES], batches;
    double flops, bytes; /* per second */
    bool is_json;
};

static enum status no_weights(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    (void)ctx;
    (void)err;
    memset(dst, 0, d->count * sizeof *dst);
    return ST_OK;
}

static enum status list_ops(struct ledger *l, const struct unet_arch *arch, uint32_t batch,
                            struct error *err)
{
    const struct condition condition = { .t = 999, .label = arch->class_cond ? 0 : -1 };
    const struct param_source src = { no_weights, NULL };
    const struct program_options o = {
        .dtype = DT_BF16, .conditions = &condition, .n_conditions = 1, .output_channels = 3
    };
    const uint32_t side = arch->image_size;
    struct graph *g = NULL;
    struct program *p = NULL;
    void *x = NULL; /* and y: of at most as many channels */
    ledger_init(l, batch);
    struct backend *b = &l->recorder.base;
    enum status s = unet_build(&g, arch, side, side, err);
    if (!s) s = program_new(&p, b, g, &src, &o, err);
    const size_t values = (size_t)batch * side * side * arch_input_channels(arch);
    if (!s) s = b->ops->device.alloc(b, values * sizeof(float), &x, err);
    const struct program_io io = { .x = x, .y = x };
    if (!s) s = program_run(p, &io, batch, err);
    b->ops->device.free(b, x);
    program_free(p);
    graph_free(g);
    return s;
}

/* ---- output ---- */

struct sum {
    const char *name;
    double flop, bytes, again, gaps, floor_s;
    uint32_t count;
};

static double floor_of(const struct entry *e, const struct options *o)
{
    const double arithmetic = e->is_matrix ? e->flop / o->flops : 0, memory = e->bytes / o->bytes;
    return arithmetic > memory ? arithmetic : memory;
}

static void add(struct sum *to, const struct entry *e, const struct options *o)
{
    to->flop += e->flop;
    to->bytes += e->bytes;
    to->again += e->again;
    to->gaps += e->gaps;
    to->floor_s += floor_of(e, o);
    to->count++;
}

static void print_row(const struct options *o, const char *op, const char *what, struct sum s,
                      const char *before)
{
    printf(o->is_json ? "%s{\"op\":\"%s\",\"what\":\"%s\",\"count\":%u,\"gflop\":%.4f,\"mb\":%.4f,"
                        "\"floor_us\":%.3f}"
                      : "%s%-14s %-34s %5u %10.2f %10.2f %10.2f\n",
           before, op, what, s.count, s.flop / 1e9, s.bytes / 1e6, s.floor_s * 1e6);
}

static void print_batch(const struct ledger *l, const struct options *o, uint32_t batch)
{
    struct sum all = { .name = "all" }, by_op[OP_COUNT] = { { 0 } };
    if (o->is_json)
        printf("{\"arch\":\"%s\",\"batch\":%u,\"tflops\":%g,\"tbytes\":%g,\"ops\":[",
               o->arch[0] == '{' ? "own" : o->arch, batch, o->flops / 1e12, o->bytes / 1e12);
    else
        printf("%s, batch %u, at %g TFLOP/s and %g TB/s\n%-14s %-34s %5s %10s %10s %10s\n", o->arch,
               batch, o->flops / 1e12, o->bytes / 1e12, "op", "", "times", "GFLOP", "MB",
               "floor us");
    const char *before = "";
    for (uint32_t i = 0; i < l->count; i++) {
        struct entry alike;
        uint32_t count;
        add(&all, &l->entries[i], o);
        add(&by_op[l->entries[i].op], &l->entries[i], o);
        if (!ledger_sum(l, i, &alike, &count)) continue;
        struct sum same = { 0 };
        add(&same, &alike, o); /* the floor of a sum of equal ops is the sum of their floors */
        same.count = count;
        print_row(o, op_name(l->entries[i].op), l->entries[i].what, same, before);
        if (o->is_json) before = ",";
    }
    if (o->is_json) printf("],\"sums\":[");
    before = "";
    for (int op = 0; op < OP_COUNT; op++) {
        if (!by_op[op].count) continue;
        print_row(o, op_name((enum op)op), "all", by_op[op], before);
        if (o->is_json) before = ",";
    }
    if (o->is_json)
        printf("],\"count\":%u,\"gflop\":%.4f,\"mb\":%.4f,\"mb_again\":%.4f,\"mb_gaps\":%.4f,"
               "\"floor_us\":%.3f,"
               "\"images_per_second\":%.2f}\n",
               all.count, all.flop / 1e9, all.bytes / 1e6, all.again / 1e6, all.gaps / 1e6,
               all.floor_s * 1e6, batch / all.floor_s);
    else
        printf("%u ops, %.2f GFLOP and %.2f MB (%.2f of them read again, %.2f in "
               "convolutions' images with gaps); floor %.3f ms, %.3f an "
               "image, %.0f images/s\n\n",
               all.count, all.flop / 1e9, all.bytes / 1e6, all.again / 1e6, all.gaps / 1e6,
               all.floor_s * 1e3, all.floor_s * 1e3 / batch, batch / all.floor_s);
}

static bool parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){
        .arch = "ffhq256", .batch = { 1, 8, 32 }, .batches = 3, .flops = 798e12, .bytes = 3.0e12
    };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            o->is_json = true;
            continue;
        }
        if (i + 1 == argc) return false;
        const char *name = argv[i++];
        char *end = argv[i];
        if (strcmp(name, "--arch") == 0) {
            o->arch = argv[i];
        } else if (strcmp(name, "--tflops") == 0) {
            o->flops = 1e12 * strtod(argv[i], NULL);
        } else if (strcmp(name, "--tbytes") == 0) {
            o->bytes = 1e12 * strtod(argv[i], NULL);
        } else if (strcmp(name, "--batch") == 0) {
            if (!parse_batches(end, o->batch, MAX_BATCHES, MAX_BATCH, &o->batches)) return false;
        } else {
            return false;
        }
    }
    return o->batches > 0 && o->flops > 0 && o->bytes > 0;
}

int main(int argc, char **argv)
{
    static struct ledger ledger;
    struct options o;
    struct unet_arch arch;
    struct error err = { 0 };
    if (!parse(&o, argc, argv)) {
        fprintf(stderr,
                "forecast [--arch A] [--batch 1,8,32] [--tflops N] [--tbytes N] [--json]\n");
        return 2;
    }
    enum status s = unet_arch_parse(&arch, o.arch, &err);
    for (uint32_t i = 0; !s && i < o.batches; i++) {
        s = list_ops(&ledger, &arch, o.batch[i], &err);
        if (!s) print_batch(&ledger, &o, o.batch[i]);
    }
    if (s) fprintf(stderr, "%s\n", err.detail);
    return s ? 1 : 0;
}
