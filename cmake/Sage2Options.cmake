# One interface target carries the language level, the warnings, the instruction set and the sanitizers.
add_library(sage2_options INTERFACE)
target_compile_features(sage2_options INTERFACE cxx_std_20)
target_include_directories(sage2_options INTERFACE "${CMAKE_SOURCE_DIR}")
set(cxx_options
  -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor
  # GCC 12 reports false overflows inside fmt and false overlaps inside std::string ...
  $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  # ... and uninitialised reads inside its own AVX-512 headers.
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
  # Clang warns where it does not vectorise a loop marked "omp simd": a matter of speed only.
  $<$<CXX_COMPILER_ID:Clang>:-Wno-pass-failed>
  # 64-byte vectors never cross a function boundary that is not inlined.
  -Wno-psabi
  # Each rounding is meant: a product and a sum become one only where the source says std::fma.
  -ffp-contract=off
  # Nothing reads errno or the exception flags of floating-point operations; both forbid vectorising.
  -fno-math-errno -fno-trapping-math)
target_compile_options(sage2_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>")
if(SAGE2_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native SAGE2_HAS_MARCH_NATIVE)
  if(SAGE2_HAS_MARCH_NATIVE)
    target_compile_options(sage2_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      # Compilers shy away from 512-bit registers by default; the emulation is dense enough to gain from them.
      target_compile_options(sage2_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-mprefer-vector-width=512>)
    endif()
  endif()
endif()
if(SAGE2_SANITIZE)
  target_compile_options(sage2_options INTERFACE -fsanitize=${SAGE2_SANITIZE} -fno-omit-frame-pointer
                                                 -fno-sanitize-recover=all)
  # Instrumented code makes GCC 12 warn of its own AVX-512 headers; the plain build is where warnings are errors.
  target_compile_options(sage2_options INTERFACE -Wno-error)
  target_link_options(sage2_options INTERFACE -fsanitize=${SAGE2_SANITIZE})
endif()
if(SAGE2_FUZZ)
  # Instrumented loops do not vectorise, which clang would report of each that asks for it.
  target_compile_options(sage2_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined -Wno-pass-failed
                                                 -fno-omit-frame-pointer -fno-sanitize-recover=all)
  # Instrumented code makes GCC 12 warn of its own AVX-512 headers; the plain build is where warnings are errors.
  target_compile_options(sage2_options INTERFACE -Wno-error)
  target_link_options(sage2_options INTERFACE -fsanitize=address,undefined)
endif()

# sage2_library(NAME DEPENDENCY...): every .cpp of the folder, with the options above.
function(sage2_library name)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC sage2_options ${ARGN})
endfunction()
