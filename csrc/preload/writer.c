/* writer.c - text and bytes to a descriptor, through a fixed buffer, without allocating. */
#define _GNU_SOURCE
#include "writer.h"

#include "preload.h"

#include "../os/utf8.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 256

void _dmi_writer_begin(dmi_writer *out, int file) {
    out->used = 0;
    out->file = file;
    out->may_wait = false;
    out->error = 0;
}

void _dmi_writer_begin_stderr(dmi_writer *out) {
    _dmi_writer_begin(out, _dmi_preload_stderr());
    out->may_wait = true;
}

/* What is blocked while we wait: all but the signals that end a program which has no handler for them. A handler
 * may not run here, for it may allocate. */
static void waiting_mask(sigset_t *mask) {
    static const int deadly[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM};
    (void)sigfillset(mask);
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        struct sigaction now;
        bool ends = !sigaction(deadly[i], NULL, &now) && now.sa_handler == SIG_DFL;
        if (ends && !sigismember(_dmi_preload_mask_before(), deadly[i]))
            (void)sigdelset(mask, deadly[i]);
    }
}

/* A pipe that can be written to takes 4,096 bytes, which is all that we hold, without waiting. */
static bool can_write(dmi_writer *out) {
    struct pollfd target = {.fd = out->file, .events = POLLOUT};
    const struct timespec patience = {.tv_sec = 10};
    sigset_t mask;
    if (!out->may_wait) return true;
    waiting_mask(&mask);
    int ready;
    do {
        ready = ppoll(&target, 1, &patience, &mask);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) out->error = EAGAIN;
    return ready != 0;
}

void _dmi_writer_flush(dmi_writer *out) {
    for (size_t at = 0; at < out->used && !out->error;) {
        if (!can_write(out)) break;
        ssize_t n = write(out->file, out->bytes + at, out->used - at);
        if (n > 0) at += (size_t)n;
        else if (n == 0) out->error = EIO;
        else if (errno != EINTR) out->error = errno;
    }
    out->used = 0;
}

void _dmi_writer_put_bytes(dmi_writer *out, const void *bytes, size_t size) {
    const char *from = bytes;
    while (size) {
        if (out->used == sizeof out->bytes) _dmi_writer_flush(out);
        size_t n = sizeof out->bytes - out->used;
        if (n > size) n = size;
        memcpy(out->bytes + out->used, from, n);
        out->used += n;
        from += n;
        size -= n;
    }
}

void _dmi_writer_put(dmi_writer *out, const char *format, ...) {
    if (sizeof out->bytes - out->used < LONGEST) _dmi_writer_flush(out);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(out->bytes + out->used, LONGEST, format, arguments);
    va_end(arguments);
    if (n > 0) out->used += n < LONGEST ? (size_t)n : LONGEST - 1;
}

void _dmi_writer_put_json(dmi_writer *out, const char *text, size_t size) {
    const unsigned char *at = (const unsigned char *)text;
    while (size) {
        size_t n = _dmi_utf8_character(at, size);
        if (n == 0) _dmi_writer_put(out, "\\ufffd");
        else if (*at < ' ' || *at == 0x7f) _dmi_writer_put(out, "\\u%04x", *at);
        else if (*at == '"' || *at == '\\') _dmi_writer_put(out, "\\%c", *at);
        else _dmi_writer_put_bytes(out, at, n);
        if (n == 0) n = 1;
        at += n;
        size -= n;
    }
}
