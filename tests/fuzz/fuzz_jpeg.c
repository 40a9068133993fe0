/* Any bytes as a JPEG, its EXIF block included. */
#include "image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    check_image(bytes, len);
    return 0;
}
