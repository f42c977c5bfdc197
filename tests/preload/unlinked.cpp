// unlinked.cpp - blocks kept through code that links no frames: this program's, the C library's, C++'s, and that of a
// library that was stripped. Each kind has its own size.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

enum { EACH = 3000 };
extern "C" void *through(void *(*call)(size_t), size_t size);

static void *kept[4][EACH];
static std::vector<std::string> &strings = *new std::vector<std::string>; // never destroyed
static volatile int never;

extern "C" __attribute__((noinline)) int keep_copies()
{
    char text[200];
    memset(text, 'x', sizeof text);
    text[150] = 0;
    for (int i = 0; i < EACH; i++) kept[0][i] = strdup(text);
    return never;
}

extern "C" __attribute__((noinline)) int keep_strings()
{
    strings.reserve(EACH);
    for (int i = 0; i < EACH; i++) strings.push_back(std::string(300, 'x'));
    return never;
}

static int found;
static int by_address(const void *a, const void *b)
{
    if (found < EACH) kept[1][found++] = malloc(500);
    return a < b ? -1 : a > b;
}
extern "C" __attribute__((noinline)) int keep_while_sorting()
{
    static int numbers[EACH];
    qsort(numbers, EACH, sizeof *numbers, by_address);
    return never;
}

extern "C" __attribute__((noinline)) int keep_through_library()
{
    for (int i = 0; i < EACH; i++) kept[2][i] = through(malloc, 900);
    return never;
}

int main()
{
    int n = keep_copies() + keep_strings() + keep_while_sorting() + keep_through_library();
    return n + (kept[0][0] == nullptr);
}
