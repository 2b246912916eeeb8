// What most operators that Jittor compiles include, precompiled once for all of them (jit.py).
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include "executor.h"
#include "fused_op.h"
#include "misc/cpu_math.h"
#include "ops/array_op.h"
#include "ops/binary_op.h"
#include "ops/broadcast_to_op.h"
#include "ops/code_op.h"
#include "ops/op_register.h"
#include "ops/reduce_op.h"
#include "ops/reindex_op.h"
#include "ops/unary_op.h"
#include "var.h"
