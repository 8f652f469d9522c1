import { createRoot } from "react-dom/client";
import { App } from "./app";
import { takeKey } from "./session";
import { applyTheme, savedTheme } from "./theme";
import "./styles.css";

applyTheme(savedTheme());
const page = document.getElementById("page");
if (page !== null) createRoot(page).render(<App firstKey={takeKey()} />);
