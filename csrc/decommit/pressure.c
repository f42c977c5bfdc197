/* pressure.c - is the machine short of memory: the kernel's pressure file and the cgroups' limits. */
#include "pressure.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../os/lock.h"
#include "../os/os.h"
#include "number.h"

#define SECOND UINT64_C(1000000000)
/* The kernel writes "no limit" as its largest page count in bytes (cgroup v1). */
#define NO_LIMIT (UINT64_C(1) << 62)

/* A cgroup hierarchy that may hold the memory controller. */
typedef struct hierarchy {
    const char *usual, *usage, *limits[2];
    char own[2048];   /* this process's group, as /proc/self/cgroup has it; "": not in it */
    char point[1024]; /* where it is mounted; "": nowhere */
    char root[2048];  /* the group that is mounted there */
} hierarchy;

/* Everything here is read and written under the lock; static, because callers may stand on small stacks. */
static dmi_lock lock;
static hierarchy v1 = {.usual = "/sys/fs/cgroup/memory",
                       .usage = "memory.usage_in_bytes",
                       .limits = {"memory.limit_in_bytes", NULL}};
static hierarchy v2 = {
    .usual = "/sys/fs/cgroup", .usage = "memory.current", .limits = {"memory.high", "memory.max"}};
static const char *prefix = "";
static char text[1 << 16], path[8192];

/* What was read last; any thread may look. -1: there is no such thing. */
static _Atomic uint64_t next_read;
static _Atomic double known_psi = -1; /* percent */
static _Atomic double known_share =
    -1; /* the largest usage / limit of the groups around this process */

/* ---- small texts ----------------------------------------------------------------------------------- */

/* Read prefix + a + b + c. */
static int read_joined(const char *a, const char *b, const char *c, char *to, size_t room) {
    const char *const parts[] = {prefix, a, b, c};
    size_t length = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t more = strlen(parts[i]);
        if (more >= sizeof path - length) return -1;
        memcpy(path + length, parts[i], more);
        length += more;
    }
    path[length] = 0;
    return _dmi_os_read_file(path, to, room);
}

/* Cut the next piece off; NULL: there is none. */
static char *cut(char **rest, char at) {
    char *start = *rest;
    if (!start || !*start) return NULL;
    char *end = strchr(start, at);
    if (end) *end++ = 0;
    *rest = end;
    return start;
}

/* Is word one of the comma-separated list? */
static bool is_listed(const char *list, const char *word) {
    size_t length = strlen(word);
    for (;;) {
        size_t item = strcspn(list, ",");
        if (item == length && memcmp(list, word, length) == 0) return true;
        if (list[item] == 0) return false;
        list += item + 1;
    }
}

/* Copy; false, and nothing there, when there is no room. */
static bool keep(char *to, size_t room, const char *from) {
    size_t length = strlen(from);
    to[0] = 0;
    if (length >= room) return false;
    memcpy(to, from, length + 1);
    return true;
}

/* mountinfo writes blanks and the like as \ooo. */
static void unescape(char *at) {
    char *to = at;
    for (; *at; to++) {
        bool octal = at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' &&
                     at[2] <= '7' && at[3] >= '0' && at[3] <= '7';
        *to = octal ? (char)((at[1] - '0') * 64 + (at[2] - '0') * 8 + (at[3] - '0')) : *at;
        at += octal ? 4 : 1;
    }
    *to = 0;
}

/* ---- where the cgroups are -------------------------------------------------------------------------- */

static bool has_parent_step(const char *at) {
    for (; (at = strstr(at, "/..")); at++)
        if (at[3] == '/' || at[3] == 0) return true;
    return false;
}

/* The way from a mount's root to the process's group; NULL: the mount does not show that group. */
static const char *way(const char *root, const char *own) {
    size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    bool below = strncmp(own, root, length) == 0 && (own[length] == '/' || own[length] == 0);
    if (below && !has_parent_step(own + length)) return strcmp(own, "/") == 0 ? "" : own + length;
    /* A mount of what lies above the cgroup namespace: its ways down have no names here. */
    if (strncmp(root, "/..", 3) == 0 && !has_parent_step(own)) return "";
    return NULL;
}

/* Which groups the process is in. */
static bool read_groups(char groups[2][2048]) {
    groups[0][0] = groups[1][0] = 0;
    if (read_joined("/proc/self/cgroup", "", "", text, sizeof text) < 0) return false;
    char *rest = text, *line;
    while ((line = cut(&rest, '\n'))) {
        (void)cut(&line, ':');
        char *controllers = line;
        char *group = line ? strchr(line, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (*controllers == 0) (void)keep(groups[1], sizeof groups[1], group);
        else if (is_listed(controllers, "memory")) (void)keep(groups[0], sizeof groups[0], group);
    }
    return true;
}

/* One line of mountinfo: number parent device root point options [fields] - type source options. */
static void read_mount(char *line) {
    char *tail = strstr(line, " - ");
    if (!tail) return;
    *tail = 0;
    tail += 3;
    char *field[5];
    for (size_t i = 0; i < 5; i++)
        if (!(field[i] = cut(&line, ' '))) return;
    char *type = cut(&tail, ' ');
    if (!type || !cut(&tail, ' ') || !tail) return;
    hierarchy *which = NULL;
    if (strcmp(type, "cgroup2") == 0) which = &v2;
    if (strcmp(type, "cgroup") == 0 && is_listed(tail, "memory")) which = &v1;
    if (!which) return;
    unescape(field[3]);
    unescape(field[4]);
    if (!way(field[3], which->own)) return;
    /* The one with the shortest root shows the most groups around ours. */
    if (which->point[0] && strlen(which->root) <= strlen(field[3])) return;
    if (!keep(which->root, sizeof which->root, field[3]) ||
        !keep(which->point, sizeof which->point, field[4]))
        which->point[0] = 0;
}

static void locate(void) {
    static char groups[2][2048];
    if (!read_groups(groups)) groups[0][0] = groups[1][0] = 0;
    if (strcmp(groups[0], v1.own) == 0 && strcmp(groups[1], v2.own) == 0) return;
    hierarchy *const both[] = {&v1, &v2};
    for (size_t i = 0; i < 2; i++) {
        both[i]->point[0] = 0;
        (void)keep(both[i]->own, sizeof both[i]->own, groups[i]);
    }
    if (read_joined("/proc/self/mountinfo", "", "", text, sizeof text) > 0) {
        char *rest = text, *line;
        while ((line = cut(&rest, '\n'))) read_mount(line);
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        (void)keep(both[i]->root, sizeof both[i]->root, "/");
        (void)keep(both[i]->point, sizeof both[i]->point, both[i]->usual);
    }
}

/* ---- what they say ------------------------------------------------------------------------------------ */

/* A number of bytes, alone in its file. */
static bool read_bytes(const char *group, const char *file, uint64_t *value) {
    char number[32];
    if (!file || read_joined(group, "/", file, number, sizeof number) <= 0) return false;
    const char *at = number;
    *value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (*value >= UINT64_MAX / 10) return false;
        *value = *value * 10 + (uint64_t)(*at - '0');
    }
    return at != number && (*at == '\n' || *at == 0);
}

/* usage / limit of one group; -1: it has no limit. */
static double share_of(const hierarchy *which, const char *group) {
    uint64_t limit = NO_LIMIT, one, usage;
    for (size_t i = 0; i < 2; i++)
        if (read_bytes(group, which->limits[i], &one) && one < limit) limit = one;
    if (limit == NO_LIMIT || !read_bytes(group, which->usage, &usage)) return -1;
    if (limit == 0) return usage ? (double)INFINITY : 0;
    return (double)usage / (double)limit;
}

/* The largest share of the process's group and all around it that are to be seen. */
static double largest_share(const hierarchy *which) {
    static char group[4096];
    const char *down = which->own[0] && which->point[0] ? way(which->root, which->own) : NULL;
    if (!down) return -1;
    size_t top = strcmp(which->point, "/") == 0 ? 0 : strlen(which->point);
    size_t length = top + strlen(down);
    if (length >= sizeof group) return -1;
    memcpy(group, which->point, top);
    memcpy(group + top, down, length - top);
    double largest = -1;
    for (;;) {
        group[length] = 0;
        double share = share_of(which, group);
        if (share > largest) largest = share;
        if (length == top) return largest;
        do length--;
        while (length > top && group[length] != '/');
    }
}

/* "some avg10=0.12 avg60=...": the 0.12. -1: there is no such file, or not with such a line. */
static double some_avg10(void) {
    static const char head[] = "some avg10=";
    if (read_joined("/proc/pressure/memory", "", "", text, sizeof text) <= 0) return -1;
    const char *at = text;
    while (strncmp(at, head, sizeof head - 1) != 0) {
        at = strchr(at, '\n');
        if (!at++) return -1;
    }
    at += sizeof head - 1;
    double percent;
    return _dmi_number_read(at, strcspn(at, " \n"), &percent) ? percent : -1;
}

/* Locked. */
static void refresh(uint64_t now) {
    locate();
    double share = largest_share(&v1), other = largest_share(&v2);
    atomic_store_explicit(&known_psi, some_avg10(), memory_order_relaxed);
    atomic_store_explicit(&known_share, share > other ? share : other, memory_order_relaxed);
    atomic_store_explicit(&next_read, now + SECOND, memory_order_relaxed);
}

static bool stale(uint64_t now) {
    return now >= atomic_load_explicit(&next_read, memory_order_relaxed);
}

/* ---- the questions ------------------------------------------------------------------------------------ */

int _dmi_pressure_probe(void) {
    uint64_t now = _dmi_os_clock();
    _dmi_lock(&lock);
    if (stale(now)) refresh(now);
    _dmi_unlock(&lock);
    return atomic_load_explicit(&known_psi, memory_order_relaxed) >= 0 ||
                   atomic_load_explicit(&known_share, memory_order_relaxed) >= 0
               ? 0
               : ENOTSUP;
}

bool _dmi_pressure_high(const dmi_policy *policy) {
    uint64_t now = _dmi_os_clock();
    if (stale(now) && _dmi_lock_try(&lock)) {
        if (stale(now)) refresh(now);
        _dmi_unlock(&lock);
    }
    return atomic_load_explicit(&known_psi, memory_order_relaxed) > policy->psi ||
           atomic_load_explicit(&known_share, memory_order_relaxed) > 1 - policy->headroom;
}

void _dmi_pressure_lock(void) { _dmi_lock(&lock); }
void _dmi_pressure_unlock(void) { _dmi_unlock(&lock); }

void _dmi_pressure_set_root(const char *new_prefix) {
    _dmi_lock(&lock);
    prefix = new_prefix ? new_prefix : "";
    v1.own[0] = v2.own[0] = v1.point[0] = v2.point[0] = 0;
    atomic_store_explicit(&next_read, 0, memory_order_relaxed);
    atomic_store_explicit(&known_psi, -1, memory_order_relaxed);
    atomic_store_explicit(&known_share, -1, memory_order_relaxed);
    _dmi_unlock(&lock);
}
