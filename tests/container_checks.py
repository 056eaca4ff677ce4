"""Writers of containers of arrays, for tests of several formats: write(path, arrays by name)."""

import h5py
import zarr


def hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def zarr_group(path, arrays):
    group = zarr.open_group(path, mode="w")
    for name, array in arrays.items():
        group.create_array(name, data=array)
