#include "reports/wrap.hpp"

#include <algorithm>

namespace sage2 {

std::string wrapped(const std::string& sentence, std::size_t columns) {
  std::string out;
  std::string line;
  for (std::size_t at = 0; at < sentence.size();) {
    const std::size_t end = std::min(sentence.find(' ', at), sentence.size());
    const std::string word = sentence.substr(at, end - at);
    if (!line.empty() && line.size() + 1 + word.size() > columns) {
      out += line + '\n';
      line = "  " + word;
    } else {
      line += (line.empty() ? "" : " ") + word;
    }
    at = end + 1;
  }
  return out + line + '\n';
}

}  // namespace sage2
