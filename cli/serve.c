/* david serve: reads the settings from flags, environment and file, and runs the daemon or prints them. */
#include "server/serve.h"

#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"

static const char *from_environment(const char *name)
{
    return getenv(name);
}

static void help(void)
{
    (void)printf(
        "usage: david serve [--config FILE] [--NAME VALUE ...] [--print-config]\n\n"
        "Serves restorations over HTTP until SIGTERM. A setting comes from its flag, else "
        "DAVID_NAME,\n"
        "else a line `name = value` of the file (--config or DAVID_CONFIG), else its default.\n\n");
    for (int i = 0; i < CONFIG_COUNT; i++) {
        char flag[CONFIG_NAME_MAX];
        (void)snprintf(flag, sizeof flag, "%s", config_name((enum config_index)i));
        for (char *p = flag; *p; p++)
            if (*p == '_') *p = '-';
        (void)printf("  --%-18s %s [%s]\n", flag, config_help((enum config_index)i),
                     config_default((enum config_index)i));
    }
    (void)printf("  --%-18s %s\n  --%-18s %s\n", "print-config",
                 "print every setting and where it came from", "help", "this text");
}

static int usage(const char *text, const char *detail)
{
    (void)fprintf(stderr, "david serve: %s%s; see --help\n", text, detail);
    return 2;
}

int cmd_serve(int argc, char **argv)
{
    static struct config config;
    struct error err = { 0 };
    const char *file = getenv("DAVID_CONFIG");
    bool is_print = false;
    config_init(&config);
    /* Twice over the flags: the file that they name is weaker than they are. */
    for (int round = 0; round < 2; round++) {
        for (int i = 1; i < argc; i++) {
            char name[CONFIG_NAME_MAX];
            if (strncmp(argv[i], "--", 2) != 0) return usage("unexpected argument ", argv[i]);
            if (strcmp(argv[i], "--help") == 0) {
                help();
                return 0;
            }
            if (strcmp(argv[i], "--print-config") == 0) {
                is_print = true;
                continue;
            }
            const char *text = argv[i] + 2, *equals = strchr(text, '=');
            size_t n = equals ? (size_t)(equals - text) : strlen(text);
            if (n >= sizeof name) return usage("unknown option ", argv[i]);
            memcpy(name, text, n);
            name[n] = '\0';
            const char *value = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
            if (!value) return usage("a value is missing after ", argv[i]);
            if (strcmp(name, "config") == 0)
                file = value;
            else if (round == 1 && config_set(&config, name, value, FROM_FLAG, &err))
                return usage(err.detail, "");
        }
        if (round == 0 && file && config_read_file(&config, file, &err))
            return usage(err.detail, "");
        if (round == 0 && config_read_environment(&config, from_environment, &err))
            return usage(err.detail, "");
    }
    config_resolve(&config);
    if (is_print) {
        config_print(&config, stdout);
        return fflush(stdout) ? 1 : 0;
    }
    return serve_run(&config);
}
