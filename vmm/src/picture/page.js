(() => {
    const byId = id => document.getElementById(id);
    const rows = [...document.querySelectorAll("tbody tr")];
    const blocks = [...document.querySelectorAll("svg g[data-rows]")];
    const rowsOf = new Map(blocks.map(block => [block, block.dataset.rows.split(" ").map(n => byId("row-" + n))]));
    // Addresses are found with and without the zeros in front.
    const texts = new Map(rows.map(row => {
        const text = [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase();
        return [row, text + " " + text.replace(/\b0x0+/g, "0x")];
    }));
    const holds = (row, word) => {
        if (row.classList.contains("dropped") || !/^0x[0-9a-f]+$/.test(word)) return false;
        const [first, last] = [row.cells[0], row.cells[1]].map(cell => BigInt(cell.textContent));
        return BigInt(word) >= first && last >= BigInt(word);
    };
    const details = byId("details");
    const words = byId("words");
    let lit = [];

    const cells = row => [...row.cells].map(cell => cell.textContent).filter(text => text && text !== "-");
    const told = row => {
        const [base, ...rest] = cells(row);
        return row.classList.contains("dropped") ? [base, ...rest].join(" · ")
            : [base + " – " + rest[0], ...rest.slice(1)].join(" · ");
    };

    const light = (elements, text) => {
        lit.forEach(element => element.classList.remove("lit"));
        lit = elements.filter(Boolean);
        lit.forEach(element => element.classList.add("lit"));
        details.textContent = text;
        details.hidden = !text;
    };
    const lightBlock = block => {
        const its = rowsOf.get(block);
        light([block, ...its], its.length === 1 ? told(its[0])
            : block.querySelector("title").textContent.split("\n")[0]);
        // Only where the list scrolls by itself, or the picture would run away.
        const list = its[0].closest(".list");
        if (list.scrollHeight > list.clientHeight) {
            const [row, box] = [its[0].getBoundingClientRect(), list.getBoundingClientRect()];
            if (box.top + 60 > row.top || row.bottom > box.bottom - 60) {
                list.scrollTop += row.top - box.top - box.height / 3;
            }
        }
    };
    const lightRow = row => light([row, byId(row.dataset.block)], told(row));
    const dark = () => light([], "");

    blocks.forEach((block, index) => {
        // Their titles are shown below instead, and at once.
        block.addEventListener("mouseenter", () => lightBlock(block));
        block.addEventListener("mouseleave", dark);
        block.addEventListener("focus", () => lightBlock(block));
        block.addEventListener("blur", dark);
        block.addEventListener("keydown", event => {
            const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
            const next = step && blocks[index + step];
            if (next) {
                event.preventDefault();
                next.focus();
            }
        });
    });
    rows.forEach(row => {
        row.addEventListener("mouseenter", () => lightRow(row));
        row.addEventListener("mouseleave", dark);
        row.addEventListener("focusin", () => lightRow(row));
        row.addEventListener("focusout", dark);
    });

    const search = () => {
        const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
        rows.forEach(row => {
            row.hidden = !wanted.every(word => texts.get(row).includes(word) || holds(row, word));
        });
        blocks.forEach(block => block.classList.toggle("dim", rowsOf.get(block).every(row => row.hidden)));
        const found = rows.filter(row => !row.hidden).length;
        byId("found").textContent = (wanted.length ? found + " of " : "") + rows.length + " regions";
    };
    words.addEventListener("input", search);
    byId("search").addEventListener("submit", event => event.preventDefault());
    document.addEventListener("keydown", event => {
        if (event.key === "Escape") {
            words.value = "";
            search();
        } else if (event.key === "/" && document.activeElement !== words) {
            event.preventDefault();
            words.focus();
        }
    });
    byId("search").hidden = false;
    search();
})();
