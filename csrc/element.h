// The dtypes that a weight may have.
#pragma once

namespace ckrm {

enum class Element { kFloat32, kFloat64, kFloat16, kBFloat16 };

}  // namespace ckrm
