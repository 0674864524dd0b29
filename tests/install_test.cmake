# Installs libsage2 into a temporary prefix, and builds and runs the C example against it as a user would:
#   cmake -DBUILD_DIR=... -DSOURCE_DIR=... -DWORK_DIR=... -DGENERATOR=... -P install_test.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN}\n${out}\nexit code ${status}")
  endif()
endfunction()
file(REMOVE_RECURSE "${WORK_DIR}")
run(${CMAKE_COMMAND} --install "${BUILD_DIR}" --component sage2 --prefix "${WORK_DIR}/prefix")
run(${CMAKE_COMMAND} -S "${SOURCE_DIR}/docs/examples/c" -B "${WORK_DIR}/build" -G "${GENERATOR}"
    "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix;${CUDA_DIR}" "-DCMAKE_C_FLAGS=-Wall -Wextra -pedantic -Werror")
run(${CMAKE_COMMAND} --build "${WORK_DIR}/build")

# Only the C interface may leave the library, and only the C and C++ runtimes may enter it.
file(GLOB library "${WORK_DIR}/prefix/lib*/libsage2.so" "${WORK_DIR}/prefix/lib*/*/libsage2.so")
execute_process(COMMAND nm -D --defined-only ${library} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
foreach(symbol IN LISTS symbols)
  if(NOT symbol MATCHES " T sage2_[a-z_]+$")
    message(FATAL_ERROR "libsage2 exports ${symbol}")
  endif()
endforeach()
execute_process(COMMAND objdump -p ${library} OUTPUT_VARIABLE needed COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "NEEDED +[^\n]+" needed "${needed}")
foreach(entry IN LISTS needed)
  if(NOT entry MATCHES " (libstdc\\+\\+|libgcc_s|libm|libc|libdl|librt|libpthread|ld-linux-[a-z0-9_-]+)\\.so\\.[0-9]+$")
    message(FATAL_ERROR "libsage2 depends on ${entry}")
  endif()
endforeach()

# 4: no GPU that it runs on; then it has loaded the library and read a variant at least.
execute_process(COMMAND "${WORK_DIR}/build/attention" RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
message(STATUS "${out}")
if(NOT status MATCHES "^[04]$")
  message(FATAL_ERROR "the example ended with ${status}")
endif()
