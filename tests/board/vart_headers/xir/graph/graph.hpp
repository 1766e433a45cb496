// A stand-in for xir's header, for tests: a graph is the path of its file, with one DPU subgraph.
#pragma once

#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace xir {

class Subgraph {
 public:
  explicit Subgraph(std::string path) : path(std::move(path)) {}
  bool has_attr(const std::string& name) const { return name == "device"; }
  template <typename T>
  T get_attr(const std::string&) const {
    return T(parent ? "ROOT" : "DPU");
  }
  std::vector<Subgraph*> children_topological_sort() { return {child.get()}; }
  std::vector<const Subgraph*> children_topological_sort() const { return {child.get()}; }

  std::string path;
  bool parent = false;
  std::unique_ptr<Subgraph> child;
};

class Graph {
 public:
  static std::unique_ptr<Graph> deserialize(const std::string& path) {
    if (!std::ifstream(path)) throw std::runtime_error(path + " does not exist");
    auto graph = std::make_unique<Graph>();
    graph->root_.reset(new Subgraph(path));
    graph->root_->parent = true;
    graph->root_->child.reset(new Subgraph(path));
    return graph;
  }
  const Subgraph* get_root_subgraph() const { return root_.get(); }
  Subgraph* get_root_subgraph() { return root_.get(); }

 private:
  std::unique_ptr<Subgraph> root_;
};

}  // namespace xir
