#include "server/http/request_id.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static void make(char *out)
{
    unsigned char bytes[16] = { 0 };
    /* Before the kernel has entropy only the address differs between two calls; the id protects
     * nothing. */
    if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) < 0) memcpy(bytes, &out, sizeof out);
    for (unsigned i = 0; i < sizeof bytes; i++)
        (void)snprintf(out + 2 * (size_t)i, 3, "%02x", bytes[i]);
}

void request_id_choose(char *out, const char *given)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = given ? strlen(given) : 0;
    if (n > 0 && n <= REQUEST_ID_MAX && strspn(given, allowed) == n)
        memcpy(out, given, n + 1);
    else
        make(out);
}
