/* agent.h - which blocks an attached agent hears of, and what each stands for.
 *
 * OpenTelemetry's contract: a block of S bytes is told of with probability 1 - exp(-S / R), R = 512 KiB, and with S
 * divided by the probability, so that the sums are true of all. The sampler sees more blocks than that; of those some
 * are drawn. A block that was told of is told of again when it is freed.
 */
#ifndef DMI_AGENT_H
#define DMI_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 1 - exp(-x) for x >= 0, to a millionth: no function of the mathematics library is called here. */
double _dmi_agent_chance(double x);
/* The sampler saw a block, as it does with that chance. If anybody is there, tell of it or not, by a number drawn from
 * [0, 1). DMI_HOLDER_TOLD if it was, else 0. */
uint32_t _dmi_agent_tell(const void *block, size_t size, double chance, double drawn);

#endif
