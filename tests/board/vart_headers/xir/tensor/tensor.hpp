// A stand-in for xir's header, for tests: what app.cpp uses of a tensor.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace xir {

class Tensor {
 public:
  Tensor(std::vector<std::int32_t> shape, int fix_point) : shape_(std::move(shape)), fix_point_(fix_point) {}
  std::vector<std::int32_t> get_shape() const { return shape_; }
  template <typename T>
  T get_attr(const std::string&) const {
    return static_cast<T>(fix_point_);
  }

 private:
  std::vector<std::int32_t> shape_;
  int fix_point_;
};

}  // namespace xir
