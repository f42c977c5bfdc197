# find_package(dmi CONFIG PATHS <folder of the dmi package>) gives
#   dmi::dmi      the library and its headers, for programs
#   dmi::headers  the headers alone, for extension modules that use dmi/capi.h and link nothing
get_filename_component(_dmi_prefix "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

if(NOT TARGET dmi::headers)
  add_library(dmi::headers INTERFACE IMPORTED)
  set_target_properties(dmi::headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_dmi_prefix}/include")
endif()

if(NOT TARGET dmi::dmi)
  add_library(dmi::dmi SHARED IMPORTED)
  set_target_properties(dmi::dmi PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_dmi_prefix}/include")
  if(WIN32) # gcc of mingw-w64 links with the DLL itself
    set_target_properties(dmi::dmi PROPERTIES
      IMPORTED_LOCATION "${_dmi_prefix}/libdmi.dll"
      IMPORTED_IMPLIB "${_dmi_prefix}/libdmi.dll")
  else()
    set_target_properties(dmi::dmi PROPERTIES
      IMPORTED_LOCATION "${_dmi_prefix}/libdmi.so"
      IMPORTED_SONAME "libdmi.so")
  endif()
endif()

unset(_dmi_prefix)
