/* log.h - one JSON object a line on stderr: time, level, event, and the fields of the event.
 *
 * log_event(LOG_LEVEL_INFO, "request", "status", LOG_NUMBER, 200.0, "route", LOG_TEXT,
 * "/restore", NULL): triples, then NULL. Nothing that a client sent is logged but its checked
 * request id: no image, file name or query value. Any thread; a line is one write. No thread
 * waits for the reader of stderr: a line that stderr does not take at once is lost, and the next
 * line that is taken says how many were lost. */
#ifndef DAVID_SERVER_LOG_H
#define DAVID_SERVER_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_field { LOG_TEXT = 1, LOG_NUMBER }; /* const char *, double */

bool log_set_level(const char *name); /* false: there is no such level */
void log_event(enum log_level level, const char *event, ...);

#endif
