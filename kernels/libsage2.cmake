# libsage2: the C interface (sage2.h), a shared library that needs nothing but the C++ runtime.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
add_library(sage2 SHARED sage2_api.cpp sm90_plan.cpp sm90_attention.cpp sm90_tensor_map.cpp cuda_check.cpp ../reference/variant.cpp
                         ../reference/variant_list.cpp ../reference/variant_rules.cpp $<TARGET_OBJECTS:sage2_sm90>)
target_link_libraries(sage2 PRIVATE sage2_options CUDA::cudart_static fmt::fmt-header-only)
target_compile_definitions(sage2 PRIVATE SAGE2_VERSION="${PROJECT_VERSION}")
target_include_directories(sage2 INTERFACE "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}>"
                                           "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
target_link_options(sage2 PRIVATE "LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/sage2.map" LINKER:-z,defs)
set_target_properties(sage2 PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} CXX_VISIBILITY_PRESET hidden
                                       VISIBILITY_INLINES_HIDDEN ON PUBLIC_HEADER sage2.h
                                       LINK_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/sage2.map")
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/sage2")
install(TARGETS sage2 EXPORT sage2Targets COMPONENT sage2
        LIBRARY COMPONENT sage2 NAMELINK_COMPONENT sage2 PUBLIC_HEADER COMPONENT sage2)
install(EXPORT sage2Targets NAMESPACE sage2:: FILE sage2Config.cmake DESTINATION "${package_dir}" COMPONENT sage2)
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/sage2ConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/sage2ConfigVersion.cmake" DESTINATION "${package_dir}" COMPONENT sage2)
