/* david: the table of subcommands. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/thread_pool.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
    bool runs_engine;
} commands[] = {
#ifdef DAVID_HAS_SERVE
    { "serve", cmd_serve, "the service: restorations over HTTP", true },
#endif
    { "restore", cmd_restore, "restore an image", true },
    { "degrade", cmd_degrade, "simulate a measurement of an image", false },
    { "eval", cmd_eval, "degrade, restore and score a folder of images", true },
    { "forward", cmd_forward, "run the raw network on tensors", true },
    { "train", cmd_train, "train a prior, or a restorer from one", true },
    { "sample", cmd_sample, "draw samples of a prior", true },
    { "convert", cmd_convert, "make a model file from a checkpoint", false },
    { "inspect", cmd_inspect, "print what a model file holds", false },
    { "bench", cmd_bench, "time the network on this machine", true },
    { "doctor", cmd_doctor, "print what this machine and build offer, and what auto selects",
      false },
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static int help(void)
{
    printf("Usage: david COMMAND [OPTIONS]\n"
           "Restores degraded images with one evaluation of a network.\n\nCommands:\n");
    for (size_t i = 0; i < COMMANDS; i++)
        printf("  %-9s %s\n", commands[i].name, commands[i].what);
    printf("\nSee david COMMAND --help for its options; david --version prints the version.\n"
           "Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
    return finish_stdout("");
}

/* program: argv of main. */
static int run(int argc, char **argv, char **program)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(argv[0], commands[i].name) == 0) {
            if (commands[i].runs_engine) restart_with_thread_pool_settings(program);
            return commands[i].run(argc, argv);
        }
    usage_error("", "%.64s is not a command", argv[0]);
}

int main(int argc, char **argv)
{
    if (argc < 2) usage_error("", "a command is needed");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return help();
    if (strcmp(argv[1], "--version") == 0) {
        puts("david " DAVID_VERSION);
        return finish_stdout("");
    }
    if (strcmp(argv[1], "help") == 0) { /* `david help COMMAND`, as in git */
        char flag[] = "--help";
        char *args[] = { argc > 2 ? argv[2] : NULL, flag, NULL };
        return argc > 2 ? run(2, args, argv) : help();
    }
    return run(argc - 1, argv + 1, argv);
}
