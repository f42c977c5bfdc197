#include <string>
#include <vector>
#include <cstdio>
// Titles are copied out of the documents that were read; the documents go.
static std::vector<std::string> titles;

static std::string title(int n)
{
    return "the title of the document " + std::to_string(n); // KEPT
}

int main()
{
    titles.reserve(20000);
    std::vector<std::string> lines;
    lines.reserve(1400000);
    for (int n = 0; n < 1400000; n++) {
        lines.push_back(std::string(40, 'x'));
        if (n % 80 == 0)
            titles.push_back(title(n));
    }
    lines.clear();
    lines.shrink_to_fit();
    puts("ready");
    fflush(stdout);
    getchar();
    return titles.empty();
}
