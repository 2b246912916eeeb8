// What patches.py inserts into copies of Jittor's headers.

// NumPy 2 has the size of an element at another place of a descriptor, and PyArray_CopyInto at
// another place of its table of functions. PyArray_CastScalarToCtype reads all of a descriptor
// there, and Jittor passes one of which only the type is set.
//
// In CUDA 13, cudaDeviceProp has lost two fields; cudaDeviceGetAttribute has had both since CUDA 5.

// ---- pyjt/numpy.h, before PyArray_Size ----

inline bool is_numpy_1() {
    return ((unsigned (*)())PyArray_API[0])() < 0x02000000; // PyArray_GetNDArrayCVersion
}

inline int64 item_size(PyArrayDescr_Proxy* descr) {
    struct NumPy2 {
        PyObject_HEAD
        PyObject* typeobj;
        char kind, type, byteorder, former_flags;
        int type_num;
        unsigned long long flags;
        Py_ssize_t elsize;
    };
    return is_numpy_1() ? descr->elsize : ((NumPy2*)descr)->elsize;
}

// ---- pyjt/numpy.h, after the declaration of numpy_init ----

inline int copy_into(PyObject* to, PyObject* from) {
    return ((int (*)(PyObject*, PyObject*))PyArray_API[is_numpy_1() ? 82 : 50])(to, from);
}

inline void cast_scalar(PyObject* scalar, void* to, PyArrayDescr_Proxy* type) {
    auto descr_from_type = (PyArrayDescr_Proxy* (*)(int))PyArray_API[45];
    auto descr = descr_from_type(type->type_num);
    PyArray_CastScalarToCtype(scalar, to, descr);
    Py_DECREF((PyObject*)descr);
}

#define PyArray_CopyInto(to, from) copy_into(to, from)
#define PyArray_CastScalarToCtype(scalar, to, type) cast_scalar(scalar, to, type)

// ---- helper_cuda.h, before its first function ----

struct SirenDeviceProp : cudaDeviceProp { int clockRate, computeMode; };

inline cudaError_t sirenDeviceProperties(SirenDeviceProp* properties, int device) {
  cudaDeviceGetAttribute(&properties->clockRate, cudaDevAttrClockRate, device);
  cudaDeviceGetAttribute(&properties->computeMode, cudaDevAttrComputeMode, device);
  return cudaGetDeviceProperties(properties, device);
}
