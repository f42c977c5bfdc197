// replaced.cpp - a program with its own operator new and delete: the forms that it does not replace must
// come to it, as the standard says, or its delete would be given blocks that it never made.
#include <cstdio>
#include <cstdlib>
#include <new>

static int made, gone;
static const std::size_t HEADER = 64, MARK = 0x646d69;

void *operator new(std::size_t size) {
    auto *block = static_cast<std::size_t *>(std::malloc(size + HEADER));
    if (!block) throw std::bad_alloc();
    block[0] = MARK;
    made++;
    return reinterpret_cast<char *>(block) + HEADER;
}

void operator delete(void *p) noexcept {
    if (!p) return;
    auto *block = reinterpret_cast<std::size_t *>(static_cast<char *>(p) - HEADER);
    if (block[0] != MARK) {
        std::fprintf(stderr, "a block that this program never made\n");
        std::abort();
    }
    gone++;
    std::free(block);
}

int main() {
    ::operator delete(::operator new(10));
    ::operator delete[](::operator new[](10));
    ::operator delete(::operator new(10, std::nothrow), std::nothrow);
    ::operator delete[](::operator new[](10, std::nothrow), std::nothrow);
    ::operator delete(::operator new(10), std::size_t{10});
    ::operator delete[](::operator new[](10), std::size_t{10});
    if (made == 6 && gone == 6) return 0;
    std::fprintf(stderr, "%d made, %d deleted, not 6 of each\n", made, gone);
    return 1;
}
