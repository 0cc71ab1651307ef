"""Wrote the files in this folder, with pandas 2.2.3 on pyarrow 19.0.1, and fastparquet 2026.9.0.

These cannot be installed beside the versions that the tests use.
"""

import datetime

import pandas as pd

ROWS = [
    {
        "user": None if number == 3 else 100 + number,
        "title": None if number == 4 else f"wörd {number % 3}",
        "tags": None if number == 5 else [f"t{tag}" for tag in range(number % 3)],
        "price": None if number == 6 else number / 4,
        "at": datetime.datetime(2022, 4, 25, number, 30) if number != 7 else None,
        "is_new": number % 2 == 0,
        "geo": {"city": f"c{number % 2}", "zip": number},
    }
    for number in range(10)
]

if __name__ == "__main__":
    frame = pd.DataFrame(ROWS)
    frame.to_parquet("pandas_2.parquet")
    kinds = {"user": "Int64", "title": "category", "is_new": "boolean"}
    frame.astype(kinds).set_index("user").to_parquet("pandas_2_index.parquet", row_group_size=4)
    flat = frame.drop(columns=["tags", "geo"])
    flat.to_parquet("fastparquet.parquet", engine="fastparquet")
    flat.astype(kinds).to_parquet("fastparquet_int96.parquet", engine="fastparquet", times="int96", row_group_offsets=4)
