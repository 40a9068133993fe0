/* scrape.h - the text of /metrics: what was counted, and what is measured when the text is asked
 * for.
 *
 * A TEXT row of metrics.def names its function in scrape.c. Any thread. */
#ifndef DAVID_SERVER_SCRAPE_H
#define DAVID_SERVER_SCRAPE_H

#include <stdio.h>

#include "server/service.h"

void scrape(struct service *service, FILE *f);

#endif
