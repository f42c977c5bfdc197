/* info.c - malloc_info: every heap with every counter, as XML. */
#include "preload.h"

#include "../os/utf8.h"
#include "writer.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#define HEAPS 256

/* Names are the user's own bytes: what XML reserves is written as a reference, what is no character of it as a
 * mark. */
static void put_text(FILE *out, const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    for (size_t left = strlen(text), n; left; at += n, left -= n) {
        n = _dmi_utf8_character(at, left);
        /* U+FFFE and U+FFFF are UTF-8 and still not allowed. */
        bool odd = n == 3 && at[0] == 0xef && at[1] == 0xbf && at[2] >= 0xbe;
        if (n == 0 || odd || *at < ' ') {
            fputs("\xef\xbf\xbd", out); /* U+FFFD */
            n = n ? n : 1;
        } else if (*at == '&' || *at == '<' || *at == '>' || *at == '"') {
            fprintf(out, "&#%u;", *at);
        } else {
            fwrite(at, 1, n, out);
        }
    }
}

static void put_heap(FILE *out, void *handle) {
    dmi_heap_info info = {.size = sizeof info};
    dmi_stats stats = {.size = sizeof stats};
    char policy[128] = "";
    const uint32_t everything = DMI_STATS_DETAIL | DMI_STATS_RESIDENT;
    if (dmi_heap_get_info(handle, &info) || dmi_heap_stats(handle, &stats, everything))
        return; /* gone */
    (void)dmi_policy_format(&info.policy, policy, sizeof policy);
    fprintf(out, "<heap handle=\"%#" PRIxPTR "\" default=\"%u\" name=\"", (uintptr_t)handle,
            info.is_default);
    put_text(out, info.name);
    fputs("\" decommit=\"", out);
    put_text(out, policy);
    fputs("\">\n", out);
#define UNIT_B "bytes"
#define UNIT_n "count"
#define UNIT_b "boolean"
#define UNIT_x "flags"
#define PUT(field, unit, doc)                                                                      \
    fprintf(out, "<counter name=\"" #field "\" unit=\"" UNIT_##unit "\">%" PRIu64 "</counter>\n",  \
            stats.field);
    DMI_STATS(PUT)
#undef PUT
    fputs("</heap>\n", out);
}

/* The sums that stand at the end of glibc's, for programs that look for these. What only glibc has, and the
 * most there ever was, are left out. */
static void put_sums(FILE *out) {
    struct mallinfo2 sum = mallinfo2();
    fprintf(out, "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n", sum.ordblks, sum.fordblks);
    fprintf(out, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", sum.hblks, sum.hblkhd);
    fprintf(out, "<system type=\"current\" size=\"%zu\"/>\n", sum.arena);
}

DMI_DOOR int malloc_info(int options, FILE *out) {
    if (options != 0) return EINVAL;
    void *handles[HEAPS];
    size_t count = dmi_heap_list(handles, HEAPS);
    fprintf(out, "<malloc version=\"dmi-%s\" heaps=\"%zu\">\n", dmi_version(), count);
    for (size_t i = 0; i < count && i < HEAPS; i++) put_heap(out, handles[i]);
    put_sums(out);
    fprintf(out, "<metadata unit=\"bytes\">%" PRIu64 "</metadata>\n</malloc>\n",
            dmi_metadata_committed());
    return 0;
}
