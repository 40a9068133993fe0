/* Any configuration file: names and values are bounded, and the texts of sizes and durations read
 * back as the same values. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/messages/config_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_line line = { 0 };
    size_t at = 0;
    while (config_next(&line, (const char *)data, size, &at, NULL) == ST_OK) {
        uint64_t v, again;
        char text[64];
        if (strlen(line.name) >= CONFIG_NAME_MAX || strlen(line.value) >= CONFIG_VALUE_MAX) abort();
        if (config_size(&v, line.value, NULL) == ST_OK) {
            config_size_text(text, sizeof text, v);
            if (config_size(&again, text, NULL) || again != v) abort();
        }
        if (config_duration(&v, line.value, NULL) == ST_OK) {
            config_duration_text(text, sizeof text, v);
            if (config_duration(&again, text, NULL) || again != v) abort();
        }
        (void)config_count(&v, line.value, NULL);
    }
    return 0;
}
