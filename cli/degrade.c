/* david degrade: a measurement y = A x + n of an image. */
#include <inttypes.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/measurements.h"
#include "cli/session.h"

static const char about[] =
    "Simulates a measurement y = A x + n of IN. OUT: .png, .jpg or - clip and round y to 8 bits;\n"
    ".safetensors keeps the float y ([1,C,H,W], units of [-1,1]; metadata task, sigma, seed, "
    "level).";

int cmd_degrade(int argc, char **argv)
{
    const char *task = NULL, *mask_file = NULL;
    double sigma = -1, level = 0;
    uint64_t seed = 0;
    bool has_seed = false, has_level = false, is_json = false;
    const struct level_help level_of = level_help(" (the task's)");
    const struct option_row rows[] = {
        { "task", OPTION_TEXT, &task, "T", task_names, 0, 0, NULL },
        { "sigma", OPTION_NUMBER, &sigma, "S", "of the noise, units of [-1,1] (the task's)", 0, 10,
          NULL },
        { "level", OPTION_NUMBER, &level, "L", level_of.text, 0, 100, &has_level },
        { "seed", OPTION_SEED, &seed, "N", "of the noise (drawn, and printed on stderr)", 0, 0,
          &has_seed },
        { "mask", OPTION_TEXT, &mask_file, "M.png",
          "white = missing, for a task that takes a mask (or alpha 0 in IN = missing)", 0, 0,
          NULL },
        { "json", OPTION_FLAG, &is_json, NULL, "facts as one JSON object on stdout", 0, 0, NULL },
    };
    const struct command c = { "degrade", "IN OUT", about, rows, sizeof rows / sizeof *rows, 2, 2 };
    int at = options_parse(&c, argc, argv);
    const char *in = argv[at], *out = argv[at + 1];
    if (!task) usage_error(c.name, "--task is needed");
    usage_above_zero(c.name, "level", has_level, level);
    if (is_json && strcmp(out, "-") == 0)
        usage_error(c.name, "--json and the image cannot both go to stdout");

    struct error err = { 0 };
    struct model_task known;
    struct image img = { 0 }, mask = { 0 }, clipped = { 0 };
    struct measurement y = { 0 };
    enum image_format format;
    const bool is_float = has_extension(out, ".safetensors");
    enum status s = task_defaults(&known, task, &err);
    if (!s) s = is_float ? output_check(out, &err) : output_format(&format, out, &err);
    if (!s && !has_seed) s = draw_seed(&seed, &err);
    if (!s) s = image_read(&img, in, &err);
    if (!s && mask_file) s = image_read(&mask, mask_file, &err);
    if (s) goto done;
    if (sigma < 0) sigma = known.sigma;
    if (!has_level) level = known.level;
    s = measurement_make(&y, task, sigma, level, seed, &img, mask_file ? &mask : NULL, &err);
    if (s) goto done;
    if (is_float) {
        s = measurement_write(out, &y, task, sigma, has_level ? level : 0, seed, &err);
    } else {
        s = measurement_image(&y, &clipped, &err);
        if (!s) s = image_write(out, &clipped, &err);
    }
    if (s) goto done;
    if (is_json) {
        char text[24];
        (void)snprintf(text, sizeof text, "%" PRIu64, seed);
        s = json_print(json_pack("{s:s, s:o, s:o, s:s, s:i, s:i, s:i}", "task", known.name, "sigma",
                                 json_of_number(sigma), "level", json_of_level(level), "seed", text,
                                 "width", (int)y.width, "height", (int)y.height, "channels",
                                 (int)y.channels),
                       &err);
    } else
        fprintf(stderr, "task %s, sigma %g%s, seed %" PRIu64 ", %ux%u px\n", known.name, sigma,
                level_text(level).words, seed, y.width, y.height);
done:
    image_done(&img);
    image_done(&mask);
    image_done(&clipped);
    measurement_done(&y);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
