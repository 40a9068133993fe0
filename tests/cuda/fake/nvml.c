/* A libnvidia-ml.so.1 for tests: a card at each address, with the load, temperature and power
 * below. */
#include <string.h>

struct nvml_utilization {
    unsigned gpu, memory;
};
struct nvml_memory {
    unsigned long long total, free, used;
};

int nvmlInit_v2(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **out);
int nvmlDeviceGetUtilizationRates(void *d, struct nvml_utilization *out);
int nvmlDeviceGetMemoryInfo(void *d, struct nvml_memory *out);
int nvmlDeviceGetPowerUsage(void *d, unsigned *milliwatts);
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *celsius);

enum { NOT_FOUND = 6 };

static int card;

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **out)
{
    if (strcmp(address, "00000000:00:00.0") != 0) return NOT_FOUND;
    *out = &card;
    return 0;
}

int nvmlDeviceGetUtilizationRates(void *d, struct nvml_utilization *out)
{
    *out = (struct nvml_utilization){ 37, 12 };
    return d == &card ? 0 : NOT_FOUND;
}

int nvmlDeviceGetMemoryInfo(void *d, struct nvml_memory *out)
{
    *out = (struct nvml_memory){ 85899345920u, 85899345920u - 12345678912u, 12345678912u };
    return d == &card ? 0 : NOT_FOUND;
}

int nvmlDeviceGetPowerUsage(void *d, unsigned *milliwatts)
{
    *milliwatts = 412345;
    return d == &card ? 0 : NOT_FOUND;
}

int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *celsius)
{
    (void)d;
    (void)sensor;
    (void)celsius;
    return 3; /* not supported: the gauge is left out */
}
