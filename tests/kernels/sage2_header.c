/* sage2.h is C: compiled as C99 with all warnings, and no other header before it. */
#include "sage2.h"

int sage2_header_is_c(void) {
  sage2_args args = {0};
  sage2_variant variant = {8, SAGE2_PER_THREAD, 0, 1, 0, 1, {0, 0}};
  return sizeof args == 200 && sizeof variant == 8 && args.mask == SAGE2_MASK_NONE;
}
