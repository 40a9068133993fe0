/* The state of a GPU, from the driver's management library. The toolkit may lack its header and the
 * machine the library, so the few declarations are here and the library is opened at the first
 * call. The device is found by its PCI address, since CUDA and the library number devices
 * differently. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include "engine/cuda/internal.h"

/* The declarations of nvml.h, with its values. */
typedef struct nvml_device *nvml_device_t;
struct nvml_utilization {
    unsigned gpu, memory; /* percent */
};
struct nvml_memory {
    unsigned long long total, free, used; /* bytes */
};
enum { NVML_SUCCESS = 0, NVML_TEMPERATURE_GPU = 0 };

static struct {
    int (*init)(void);
    int (*by_address)(const char *address, nvml_device_t *out);
    int (*utilization)(nvml_device_t d, struct nvml_utilization *out);
    int (*memory)(nvml_device_t d, struct nvml_memory *out);
    int (*power)(nvml_device_t d, unsigned *milliwatts);
    int (*temperature)(nvml_device_t d, int sensor, unsigned *celsius);
} nvml;

static bool is_open;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *find(void *library, const char *name)
{
    return library ? dlsym(library, name) : NULL;
}

/* Copied as bytes: ISO C has no cast from void * to a function pointer. */
#define TAKE(library, member, name)                                                                \
    do {                                                                                           \
        void *symbol = find(library, name);                                                        \
        __builtin_memcpy(&nvml.member, &symbol, sizeof symbol);                                    \
        all = all && symbol;                                                                       \
    } while (0)

static void open_library(void)
{
    bool all = true;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    TAKE(library, init, "nvmlInit_v2");
    TAKE(library, by_address, "nvmlDeviceGetHandleByPciBusId_v2");
    TAKE(library, utilization, "nvmlDeviceGetUtilizationRates");
    TAKE(library, memory, "nvmlDeviceGetMemoryInfo");
    TAKE(library, power, "nvmlDeviceGetPowerUsage");
    TAKE(library, temperature, "nvmlDeviceGetTemperature");
    is_open = all && nvml.init() == NVML_SUCCESS;
    if (!is_open && library) (void)dlclose(library);
}

bool nvml_gauges(const struct gpu *g, struct device_gauges *out)
{
    struct nvml_utilization utilization;
    struct nvml_memory memory;
    unsigned value;
    nvml_device_t d = NULL;
    *out = (struct device_gauges){ .busy = NAN,
                                   .memory_used_bytes = NAN,
                                   .memory_total_bytes = (double)g->total_bytes,
                                   .power_w = NAN,
                                   .temperature_c = NAN };
    snprintf(out->name, sizeof out->name, "%s", g->name);
    (void)pthread_once(&once, open_library);
    if (!is_open || nvml.by_address(g->address, &d) != NVML_SUCCESS) return false;
    if (nvml.utilization(d, &utilization) == NVML_SUCCESS) out->busy = utilization.gpu / 100.0;
    if (nvml.memory(d, &memory) == NVML_SUCCESS) {
        out->memory_used_bytes = (double)memory.used;
        out->memory_total_bytes = (double)memory.total;
    }
    if (nvml.power(d, &value) == NVML_SUCCESS) out->power_w = value / 1000.0;
    if (nvml.temperature(d, NVML_TEMPERATURE_GPU, &value) == NVML_SUCCESS)
        out->temperature_c = value;
    return true;
}
