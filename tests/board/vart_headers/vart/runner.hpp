// A stand-in for VART's header, for tests: a runner is a Python process that runs the xmodel on integers
// (the command in VART_WORKER, which gets the xmodel's path), asked over pipes.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <vart/tensor_buffer.hpp>
#include <xir/graph/graph.hpp>

namespace vart {

class Runner {
 public:
  static std::unique_ptr<Runner> create_runner(const xir::Subgraph* subgraph, const std::string& mode) {
    if (mode != "run") throw std::runtime_error("mode " + mode);
    return std::unique_ptr<Runner>(new Runner(subgraph->path));
  }
  ~Runner() {
    std::fclose(to_);
    std::fclose(from_);
    waitpid(child_, nullptr, 0);
  }
  std::vector<const xir::Tensor*> get_input_tensors() { return {&input_[0]}; }
  std::vector<const xir::Tensor*> get_output_tensors() { return {&output_[0]}; }
  std::pair<std::uint32_t, int> execute_async(const std::vector<TensorBuffer*>& in, const std::vector<TensorBuffer*>& out) {
    const auto source = in.at(0)->data(), target = out.at(0)->data();
    std::fwrite(reinterpret_cast<void*>(source.first), 1, source.second, to_);
    std::fflush(to_);
    const auto got = std::fread(reinterpret_cast<void*>(target.first), 1, target.second, from_);
    return {1, got == target.second ? 0 : -1};
  }
  int wait(int, int) { return 0; }

 private:
  explicit Runner(const std::string& path) {
    static std::mutex forking;
    const std::lock_guard<std::mutex> held(forking);
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) throw std::runtime_error("pipe");
    child_ = fork();
    if (child_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (int number = 3; number < 64; ++number) close(number);
      const std::string command = std::string("exec ") + std::getenv("VART_WORKER") + " '" + path + "'";
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    to_ = fdopen(to[1], "wb");
    from_ = fdopen(from[0], "rb");
    int s[6], fix_in = 0, fix_out = 0;
    if (std::fscanf(from_, "%d %d %d %d %d %d %d", &s[0], &s[1], &s[2], &s[3], &fix_in, &s[4], &fix_out) != 7 ||
        std::fgetc(from_) != '\n') {
      throw std::runtime_error("the worker gave no shapes");
    }
    input_.emplace_back(std::vector<std::int32_t>{s[0], s[1], s[2], s[3]}, fix_in);
    output_.emplace_back(std::vector<std::int32_t>{s[0], s[4]}, fix_out);
  }

  pid_t child_ = 0;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
  std::vector<xir::Tensor> input_, output_;
};

}  // namespace vart
