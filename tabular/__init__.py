"""Clinical tables: data, schemas, models, attacks that search among possible patients, exact attacks on trees."""
