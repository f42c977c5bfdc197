/* pytypes.h - what Python object a block holds, by what the object and its type say.
 *
 * Nothing of Python is called and nothing is referred to: all is read from copies, at a moment at which other threads may
 * run. A block is taken for an object only where everything fits: it begins as one (behind the collector's header exactly
 * if the type has one), its type is a type that is ready, whose own type is a metaclass, and the size that objects
 * of that type have at least fits the block. Names are the types' own: "dict", "collections.deque", "Node".
 */
#ifndef DMI_PYTYPES_H
#define DMI_PYTYPES_H

#include <stddef.h>
#include <stdint.h>

/* Look for an interpreter whose objects can be told. May allocate; call it without locks. */
void _dmi_python_types_find(void);
/* Forget what was known of types: they may have gone since. One caller at a time, as below. */
void _dmi_python_types_begin(void);
/* The name of the type of the object in a block: a text of letters, digits, dots and the like, valid until the next
 * begin. "": it holds no object. NULL: objects cannot be told. start: its first bytes, of which there are so many. */
const char *_dmi_python_type(const unsigned char *start, size_t bytes, size_t block_size);
#define DMI_PYTHON_START 64 /* bytes of a block that are looked at, at most */

#endif
