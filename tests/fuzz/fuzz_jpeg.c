/* Any bytes as a JPEG, its EXIF block included. */
#include "picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    check_picture(bytes, len);
    return 0;
}
