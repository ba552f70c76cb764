"""Many models, one machine or a Dask cluster, Parquet out."""
