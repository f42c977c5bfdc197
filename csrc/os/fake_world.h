/* fake_world.h - what fake.c and fake_world.c share; tests include fake.h. */
#ifndef DMI_FAKE_WORLD_H
#define DMI_FAKE_WORLD_H

#include "os.h"

/* Put everything back to how it is at the start. */
void _dmi_fake_world_reset(void);
/* 64 random bits of the seeded sequence. */
uint64_t _dmi_fake_random_next(void);
/* Print what the caller did wrong, and abort. */
void _dmi_fake_report_misuse(const char *call, const char *what, const void *address, size_t size)
    __attribute__((noreturn));

/* Functions of the backend; the contracts are those of os.h. Threads and console are those of the host, but there are no
 * helper threads. */
uint64_t _dmi_fake_clock(void);
int _dmi_fake_random(void *buffer, size_t size);
int _dmi_fake_read_file(const char *path, char *buffer, size_t size);
int _dmi_fake_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total);
uint64_t _dmi_fake_cpu_time(void);
void _dmi_fake_message(const char *text, size_t length);
void _dmi_fake_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void _dmi_fake_wake(_Atomic uint32_t *word, bool all);
uint64_t _dmi_fake_thread_id(void);
int _dmi_fake_thread_exit_setup(void (*handler)(void *));
int _dmi_fake_thread_exit_arm(void *value);
int _dmi_fake_barrier_setup(void);
int _dmi_fake_barrier(void);
int _dmi_fake_thread_start(void (*body)(void));
void _dmi_fake_thread_join(void);
int _dmi_fake_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

#endif
