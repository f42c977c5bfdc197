// own_new.cpp - a program that replaces operator new and delete alone: the array forms must call them, as
// the standard says.
#include <cstdio>
#include <cstdlib>
#include <new>

static int calls;

void *operator new(std::size_t size) {
    ++calls;
    void *block = std::malloc(size);
    if (!block) throw std::bad_alloc();
    return block;
}

void operator delete(void *block) noexcept {
    --calls;
    std::free(block);
}

void operator delete(void *block, std::size_t) noexcept {
    --calls;
    std::free(block);
}

int main() {
    int *volatile numbers = new int[10];
    std::printf("after new[]: %d\n", calls);
    delete[] numbers;
    std::printf("after delete[]: %d\n", calls);
}
