// A stand-in for VART's header, for tests.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <xir/tensor/tensor.hpp>

namespace vart {

class TensorBuffer {
 public:
  explicit TensorBuffer(const xir::Tensor* tensor) : tensor_(tensor) {}
  virtual ~TensorBuffer() = default;
  virtual std::pair<std::uint64_t, std::size_t> data(const std::vector<std::int32_t> index = {}) = 0;
  const xir::Tensor* get_tensor() const { return tensor_; }

 protected:
  const xir::Tensor* tensor_;
};

}  // namespace vart
