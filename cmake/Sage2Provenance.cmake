# Writes build_info.hpp (commit, dirty flag, compiler, flags) at build time, only when it changed.
set(SAGE2_BUILD_INFO_DIR "${CMAKE_BINARY_DIR}/generated")
add_custom_target(sage2_build_info
  COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${CMAKE_SOURCE_DIR} -DOUT=${SAGE2_BUILD_INFO_DIR}/build_info.hpp
          -DVERSION=${PROJECT_VERSION} "-DCOMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
          -DBUILD_TYPE=${CMAKE_BUILD_TYPE} -DNATIVE=${SAGE2_NATIVE} -DSANITIZE=${SAGE2_SANITIZE}
          -P ${CMAKE_SOURCE_DIR}/cmake/write_build_info.cmake
  BYPRODUCTS ${SAGE2_BUILD_INFO_DIR}/build_info.hpp
  COMMENT "" VERBATIM)
