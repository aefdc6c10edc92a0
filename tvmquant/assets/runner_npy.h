/* The runner's tensors and the .npy files they come from and go to. */
#ifndef RUNNER_NPY_H
#define RUNNER_NPY_H
#include <errno.h>
#include <inttypes.h>

#include "runner_model.h"

static int64_t element_count(const Spec* spec) {
  int64_t count = 1;
  for (int i = 0; i < spec->ndim; ++i) count *= spec->shape[i];
  return count;
}

static size_t byte_count(const Spec* spec) {
  return (size_t)element_count(spec) * ((spec->dtype.bits + 7) / 8);
}

/* A tensor of the model's input over memory that lives as long as the program. */
static TVMFFIAny tensor_over(const Spec* spec, void* data) {
  DLManagedTensor* managed = calloc(1, sizeof(DLManagedTensor));
  managed->dl_tensor.data = data;
  managed->dl_tensor.device = (DLDevice){kDLCPU, 0};
  managed->dl_tensor.ndim = spec->ndim;
  managed->dl_tensor.dtype = spec->dtype;
  managed->dl_tensor.shape = (int64_t*)spec->shape;
  TVMFFIAny tensor = {.type_index = kTVMFFITensor};
  TVMFFIObjectHandle made = NULL;
  if (ffi.TVMFFITensorFromDLPack(managed, ALIGNMENT, 0, &made)) raise_error(spec->name);
  tensor.v_obj = made;
  return tensor;
}

static void shape_text(const Spec* spec, char* text, size_t size) {
  size_t used = snprintf(text, size, "(");
  for (int i = 0; i < spec->ndim; ++i) {
    const char* comma = i + 1 < spec->ndim ? ", " : spec->ndim == 1 ? "," : "";
    used += snprintf(text + used, size - used, "%" PRId64 "%s", spec->shape[i], comma);
  }
  snprintf(text + used, size - used, ")");
}

/* Whether the text after `key` in the header of a .npy file begins with `wanted`. */
static int header_has(const char* header, const char* key, const char* wanted) {
  const char* at = strstr(header, key);
  if (at == NULL) return 0;
  at += strlen(key);
  while (*at == ':' || *at == ' ') ++at;
  return strncmp(at, wanted, strlen(wanted)) == 0;
}

static void read_npy(const char* path, const Spec* spec, void* data) {
  unsigned char start[12];
  char header[4096], shape[256], wanted[64];
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail(2, "cannot read %s: %s", path, strerror(errno));
  if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0) {
    fail(2, "%s is not a .npy file", path);
  }
  size_t length = start[8] | start[9] << 8;
  if (start[6] > 1) {
    if (fread(start + 10, 1, 2, file) != 2) fail(2, "%s is cut off", path);
    length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
  }
  if (length >= sizeof(header)) fail(2, "%s has an unreasonably long header", path);
  if (fread(header, 1, length, file) != length) fail(2, "%s is cut off", path);
  header[length] = 0;
  shape_text(spec, shape, sizeof(shape));
  snprintf(wanted, sizeof(wanted), "'%s'", spec->descr);
  if (!header_has(header, "'descr'", wanted) || !header_has(header, "'shape'", shape) ||
      (spec->ndim > 1 && !header_has(header, "'fortran_order'", "False"))) {
    header[strcspn(header, "\n")] = 0;
    fail(2, "%s does not fit the input %s, which takes %s %s in C order; the file says %s", path,
         spec->name, spec->descr, shape, header);
  }
  if (fread(data, 1, byte_count(spec), file) != byte_count(spec)) fail(2, "%s is cut off", path);
  fclose(file);
}

static void write_npy(const char* path, const Spec* spec, TVMFFIAny tensor) {
  const DLTensor* values = (const DLTensor*)((char*)tensor.v_obj + sizeof(TVMFFIObject));
  char shape[256], header[512], temporary[4096];
  int64_t dense = 1;
  for (int i = spec->ndim - 1; i >= 0; --i) {
    if (values->strides && spec->shape[i] > 1 && values->strides[i] != dense) {
      fail(1, "output %s is not contiguous", spec->name);
    }
    dense *= spec->shape[i];
  }
  shape_text(spec, shape, sizeof(shape));
  int used = snprintf(header, sizeof(header),
                      "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", spec->descr, shape);
  while ((used + 11) % 64) header[used++] = ' ';
  header[used++] = '\n';
  unsigned char start[] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, used & 255, used >> 8};
  if ((size_t)snprintf(temporary, sizeof(temporary), "%s.partial", path) >= sizeof(temporary)) {
    fail(2, "the name %s is too long", path);
  }
  FILE* file = fopen(temporary, "wb");
  if (file == NULL) fail(2, "cannot write %s: %s", path, strerror(errno));
  int written = fwrite(start, 1, sizeof(start), file) == sizeof(start) &&
                fwrite(header, 1, used, file) == (size_t)used &&
                fwrite((char*)values->data + values->byte_offset, 1, byte_count(spec), file) ==
                    byte_count(spec);
  if (fclose(file) != 0 || !written || rename(temporary, path) != 0) {
    int reason = errno;
    remove(temporary);
    fail(1, "cannot write %s: %s", path, strerror(reason));
  }
}

/* Noise for --bench: the same on every run, floats in [-1, 1), integers 0 and 1. */
static void fill_noise(const Spec* spec, void* data) {
  uint32_t state = 1;
  int64_t count = element_count(spec);
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    int bytes = spec->dtype.bits / 8;
    if (spec->dtype.code == kDLFloat && bytes == 4) {
      ((float*)data)[i] = (int32_t)state / 2147483648.0f;
    } else if (spec->dtype.code == kDLFloat && bytes == 8) {
      ((double*)data)[i] = (int32_t)state / 2147483648.0;
    } else if (spec->dtype.code != kDLFloat) {
      memset((char*)data + i * bytes, 0, bytes);
      ((char*)data)[i * bytes] = state >> 31;
    }
  }
}
#endif
