/* writer.h - text and bytes to a descriptor, through a fixed buffer: nothing is allocated. */
#ifndef DMI_WRITER_H
#define DMI_WRITER_H

#include <stdbool.h>
#include <stddef.h>

/* Static, or on the stack of a thread that has room. No lock: the caller has one. */
typedef struct dmi_writer {
    char bytes[4096];
    size_t used;
    int file;
    bool may_wait; /* somebody may have to read on: see _dmi_writer_begin_stderr */
    int error;     /* errno of the first write that failed; what follows is dropped */
} dmi_writer;

/* A file of our own. */
void _dmi_writer_begin(dmi_writer *out, int file);
/* Standard error, which may be a pipe that nobody reads. Signals are blocked: so it is waited for ten seconds at
 * most, and a signal that would end the program ends it meanwhile. */
void _dmi_writer_begin_stderr(dmi_writer *out);
void _dmi_writer_flush(dmi_writer *out);
void _dmi_writer_put_bytes(dmi_writer *out, const void *bytes, size_t size);
/* At most 255 bytes a call; no floating point, for which some C libraries allocate. */
__attribute__((format(printf, 2, 3))) void _dmi_writer_put(dmi_writer *out, const char *format,
                                                           ...);
/* The inside of a JSON string, without its quotes: what is no UTF-8 becomes U+FFFD. */
void _dmi_writer_put_json(dmi_writer *out, const char *text, size_t size);

#endif
