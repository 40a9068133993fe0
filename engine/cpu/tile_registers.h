/* tile_registers.h - configures AMX's eight tiles, all of 16 rows of 64 bytes. Only for files that
 * are compiled for the set `amx`. A thread configures its own tiles before it uses them and
 * releases them afterwards. */
#ifndef DAVID_CPU_TILE_REGISTERS_H
#define DAVID_CPU_TILE_REGISTERS_H

#include <immintrin.h>
#include <stdint.h>

static inline void configure_tiles(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_per_row[16];
        uint8_t rows[16];
    } config = { .palette = 1 };
    for (int i = 0; i < 8; i++) {
        config.bytes_per_row[i] = 64;
        config.rows[i] = 16;
    }
    /* Not _tile_loadconfig: GCC 12 declares that it reads only the first 8 bytes, so the compiler
     * could drop the stores to the others. */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

static inline void release_tiles(void)
{
    _tile_release();
}

#endif
