/* number.h - decimal numbers as text, the same in every locale. */
#ifndef DMI_NUMBER_H
#define DMI_NUMBER_H

#include <stdbool.h>
#include <stddef.h>

#define DMI_NUMBER_DIGITS 64 /* a number to read may have so many digits */
#define DMI_NUMBER_TEXT 32   /* room for a number that is written, with the terminating 0 */

/* Read digits[.digits][e[+|-]digits], all of [text, text+length), correctly rounded. No sign, no
 * blanks, no nan or inf. False: not such a number, more than DMI_NUMBER_DIGITS digits, or too large
 * for a double. */
bool _dmi_number_read(const char *text, size_t length, double *value);
/* Write a finite number >= 0 with the fewest digits that read back as the same double. Returns the
 * length without the terminating 0. */
size_t _dmi_number_write(double value, char text[DMI_NUMBER_TEXT]);

#endif
