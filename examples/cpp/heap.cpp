// heap.cpp - containers on a heap of their own, which goes back whole when the phase ends.
//
//     c++ -std=c++17 heap.cpp $(python3 -m dmi env --flags) -o heap && ./heap
#include <dmi/dmi.hpp>

#include <cstdio>
#include <memory_resource>
#include <string>
#include <unordered_map>

static unsigned long long committed(void *heap) {
    dmi_stats stats = {};
    stats.size = sizeof stats;
    return dmi_heap_stats(heap, &stats, 0) == 0 ? stats.committed : 0;
}

int main() {
    dmi::heap heap("request");
    dmi::heap_resource resource(heap);
    {
        std::pmr::unordered_map<int, std::pmr::string> names(&resource);
        for (int n = 0; n < 100000; n++)
            names.emplace(n, "a name that is too long to stand in the string itself");
        std::printf("in use   %llu bytes committed\n", committed(heap.handle()));
    }
    dmi_heap_trim(heap.handle(), nullptr);
    std::printf("trimmed  %llu bytes committed\n", committed(heap.handle()));
}
