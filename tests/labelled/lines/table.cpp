#include <string>
#include <unordered_map>
#include <vector>
#include <cstdio>
// A cache of rendered pages without a limit; each is built beside pieces of the same size.
static std::unordered_map<int, std::string> cache;

static std::string render(int n)
{
    return std::string(700, static_cast<char>('a' + n % 26)); // KEPT
}

int main()
{
    std::vector<std::string> pieces;
    for (int n = 0; n < 100000; n++) {
        pieces.push_back(std::string(700, 'p'));
        if (n % 9 == 0)
            cache.emplace(n, render(n));
    }
    pieces.clear();
    puts("ready");
    fflush(stdout);
    getchar();
    return cache.empty();
}
