// An operator that refuses everything, as those of the libraries refuse bad arguments.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

using torch::stable::Tensor;

Tensor refuse(const Tensor& x) {
  STD_TORCH_CHECK(false, "it has ", x.dim(), " dimensions");
  return x;
}

STABLE_TORCH_LIBRARY(ckrm_refusing, m) { m.def("refuse(Tensor x) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(ckrm_refusing, CPU, m) { m.impl("refuse", TORCH_BOX(&refuse)); }
