-- A database for filegate and the one role that uses it. As a superuser, with the password in the environment and not in this file:
--
--   FILEGATE_DB_PASSWORD=… psql --no-psqlrc --file deploy/postgres/role.sql
--
-- The role owns its database: each release brings its changes of the schema with it and makes them at its start.
\set ON_ERROR_STOP on
\getenv password FILEGATE_DB_PASSWORD
\if :{?password}
\else
  \echo 'FILEGATE_DB_PASSWORD is not set'
  SELECT 1 / 0 AS "FILEGATE_DB_PASSWORD is not set";
\endif

-- Room for all replicas: replicas × database.connections, two more replicas while a rolling upgrade runs, and you.
CREATE ROLE filegate LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 96 PASSWORD :'password';
CREATE DATABASE filegate OWNER filegate ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE filegate FROM PUBLIC;

\connect filegate
ALTER SCHEMA public OWNER TO filegate;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- No role for those who only look: table meta has the secret that signs download links. `filegate usage` and `filegate file ls` with a
-- read-only admin token are for them.
