/* fake_world.c - what the fake system has besides memory: a clock, random numbers, files, and the host's threads. */
#include "fake_world.h"

#include <dmi/dmi.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"
#include "lock.h"

#define HOST (&_dmi_os_native)

enum { MAX_FILES = 64 };

static dmi_lock lock;
static uint64_t random_state = 1;
static struct { const char *path, *text; /* path NULL: slot is free */ } files[MAX_FILES];
static uint64_t file_reads;
static const dmi_region *regions;
static size_t region_count;
static uint64_t region_total, region_pid;
static _Atomic uint64_t now = 1000000000u;

/* ---- misuse ---------------------------------------------------------------------------------- */

static size_t put_hex(char *out, uint64_t value) {
    char digits[16];
    size_t count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value & 15u];
        value >>= 4;
    } while (value != 0);
    for (size_t i = 0; i < count; i++) out[i] = digits[count - 1 - i];
    return count;
}

void _dmi_fake_report_misuse(const char *call, const char *what, const void *address, size_t size) {
    char line[256];
    size_t at = 0;
    const char *const words[] = {"dmi: fake os: ", call, ": ", what, ", address 0x", " size 0x"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        for (const char *c = words[i]; *c != 0 && at < 200; c++) line[at++] = *c;
        if (i == 4) at += put_hex(line + at, (uintptr_t)address);
    }
    at += put_hex(line + at, size);
    line[at++] = '\n';
    HOST->message(line, at);
    abort();
}

/* ---- chance and the clock ------------------------------------------------------------------------ */

static uint64_t next_random(void) { /* splitmix64 */
    uint64_t mixed = random_state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

uint64_t _dmi_fake_random_next(void) {
    _dmi_lock(&lock);
    uint64_t value = next_random();
    _dmi_unlock(&lock);
    return value;
}

uint64_t _dmi_fake_clock(void) { return atomic_load_explicit(&now, memory_order_relaxed); }

static int random_error;
void _dmi_fake_random_refuse(int error) { random_error = error; }

int _dmi_fake_random(void *buffer, size_t size) {
    unsigned char *out = buffer;
    _dmi_lock(&lock);
    for (size_t i = 0; i < size; i++) out[i] = (unsigned char)(next_random() >> 56);
    _dmi_unlock(&lock);
    return random_error;
}

int _dmi_fake_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total) {
    if (regions == NULL || (pid != 0 && pid != region_pid)) return ESRCH;
    for (size_t i = 0; i < region_count; i++) visit(argument, &regions[i]);
    *total = region_total;
    return 0;
}

int _dmi_fake_read_file(const char *path, char *buffer, size_t size) {
    int length = -1;
    if (size == 0) return -1;
    _dmi_lock(&lock);
    file_reads++;
    for (size_t i = 0; i < MAX_FILES && length < 0; i++) {
        if (files[i].path == NULL || strcmp(files[i].path, path) != 0) continue;
        size_t whole = strlen(files[i].text);
        length = (int)(whole < size ? whole : size - 1);
        memcpy(buffer, files[i].text, (size_t)length);
        buffer[length] = 0;
    }
    _dmi_unlock(&lock);
    return length;
}

/* Threads and console are those of the host. */
uint64_t _dmi_fake_cpu_time(void) { return HOST->cpu_time(); }
void _dmi_fake_message(const char *text, size_t length) { HOST->message(text, length); }
void _dmi_fake_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    HOST->wait(word, expected, timeout_ns);
}
void _dmi_fake_wake(_Atomic uint32_t *word, bool all) { HOST->wake(word, all); }
uint64_t _dmi_fake_thread_id(void) { return HOST->thread_id(); }
int _dmi_fake_thread_exit_setup(void (*handler)(void *)) {
    return HOST->thread_exit_setup(handler);
}
int _dmi_fake_thread_exit_arm(void *value) { return HOST->thread_exit_arm(value); }
int _dmi_fake_barrier_setup(void) { return HOST->barrier_setup(); }
int _dmi_fake_barrier(void) { return HOST->barrier(); }
/* No helper thread, so that nothing happens at random times: slow paths do its work. */
int _dmi_fake_thread_start(void (*body)(void)) {
    (void)body;
    return ENOSYS;
}
void _dmi_fake_thread_join(void) {}
int _dmi_fake_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    return HOST->at_fork(prepare, parent, child);
}

void _dmi_fake_seed_set(uint64_t seed) {
    _dmi_lock(&lock);
    random_state = seed;
    _dmi_unlock(&lock);
}

void _dmi_fake_file_set(const char *path, const char *text) {
    size_t slot = MAX_FILES;
    _dmi_lock(&lock);
    for (size_t i = MAX_FILES; i-- > 0;)
        if (files[i].path == NULL) slot = slot < MAX_FILES && files[slot].path ? slot : i;
        else if (strcmp(files[i].path, path) == 0) slot = i;
    if (slot == MAX_FILES) _dmi_fake_report_misuse("file_set", "too many files", path, 0);
    files[slot].path = text != NULL ? path : NULL;
    files[slot].text = text;
    _dmi_unlock(&lock);
}

uint64_t _dmi_fake_file_reads(void) {
    _dmi_lock(&lock);
    uint64_t reads = file_reads;
    _dmi_unlock(&lock);
    return reads;
}

void _dmi_fake_regions_set(uint64_t pid, const dmi_region *all, size_t count, uint64_t total) {
    regions = all;
    region_count = count;
    region_total = total;
    region_pid = pid;
}

void _dmi_fake_clock_set(uint64_t nanoseconds) {
    atomic_store_explicit(&now, nanoseconds, memory_order_relaxed);
}

void _dmi_fake_clock_advance(uint64_t nanoseconds) {
    atomic_fetch_add_explicit(&now, nanoseconds, memory_order_relaxed);
}

void _dmi_fake_world_reset(void) {
    _dmi_lock(&lock);
    random_state = 1;
    random_error = 0;
    memset(files, 0, sizeof files);
    file_reads = 0;
    regions = NULL;
    atomic_store_explicit(&now, 1000000000u, memory_order_relaxed);
    _dmi_unlock(&lock);
}
