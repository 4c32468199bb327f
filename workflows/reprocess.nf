/*
 * What a run gives: imputed values, tables and files for other tools, regulation, and a page.
 *
 *   MODEL ─┬─ GATHER ──────────────┬─ REPORT
 *          ├─ contrasts ───────────┤
 *          ├─ EXPORT ──────────────┤
 *          └─ REGULATION ──────────┘ (--regulation: regulation.nf)
 */

include { CONTROLS   } from '../modules/controls'
include { GATHER     } from '../modules/gather'
include { EXPORT     } from '../modules/export'
include { REPORT     } from '../modules/report'
include { REGULATION } from './regulation'

include { chosen                                       } from '../modules/shell'
include { by_path ; path_or_none ; sources_of          } from '../modules/channels'
include { bill_text ; parameters_text ; versions_text ; write_info } from '../modules/record'

workflow REPROCESS {
    take:
    settings     // Map: every parameter, cast and checked
    ch_rows      // channel: row of the samplesheet, as checked
    ch_peaks     // channel: bed (one, or none)
    ch_qc        // channel: qc/*
    ch_model     // channel: model (one)
    ch_embedding // channel: multivi.h5mu (one)
    ch_imputed   // channel: [ modality, zarr of a chunk ]
    ch_tables    // channel: table of a contrast

    main:
    genome      = chosen(settings, ['genome', 'chrom_style', 'mito_contig'])
    chrom_sizes = path_or_none(settings.chrom_sizes)
    gtf         = path_or_none(settings.gtf)
    tss         = path_or_none(settings.tss)
    blacklist   = path_or_none(settings.blacklist)
    fasta       = path_or_none(settings.fasta)
    motifs      = path_or_none(settings.motifs)

    GATHER(
        ch_imputed.groupTuple().map { modality, chunks -> [modality, chunks.sort { chunk -> chunk.name }] },
        ch_embedding.first(), // a value: every modality reads it
        chosen(settings, ['zarr_format']),
    )
    CONTROLS(
        ch_embedding.filter { _file -> settings.controls },
        ch_model,
        chosen(settings, ['seed', 'device']) + (settings.labels ? [groupby: settings.labels] : [:]),
    )
    ch_facts = channel.empty() // channel: <part>.json of regulation
    ch_links = channel.empty() // channel: links.tsv.gz
    if (settings.regulation) {
        ch_sources = ch_rows.filter { row -> row.fragments }
            .toSortedList { one, other -> one.index <=> other.index }
            .map { rows -> sources_of(rows) } // channel: [ samples, fragments, mapped, maps ] (one)
        ch_rna = GATHER.out.imputed.filter { modality, _store -> modality == 'rna' }.map { _modality, store -> store }
        REGULATION(
            ch_embedding, ch_sources, ch_peaks.ifEmpty([]), ch_rna.ifEmpty([]), genome, chrom_sizes, gtf, tss, blacklist,
            fasta, motifs, settings.groups, chosen(settings, ['fdr', 'seed']),
        )
        ch_facts = REGULATION.out.facts
        ch_links = REGULATION.out.links
    }

    EXPORT(
        ch_embedding,
        by_path(GATHER.out.imputed.map { _modality, store -> store }),
        ch_links.ifEmpty([]), // a part that lacks its inputs gives none
        chosen(settings, ['explorer_size', 'title']) + [h5ad: settings.h5ad == null ? 'auto' : settings.h5ad.toString()],
    )

    if (settings.h5ad == null) {
        // With the tables: a run that is stopped before EXPORT closes both channels empty, and says nothing of it
        EXPORT.out.tables.map { _tables -> 'tables' }
            .combine(EXPORT.out.h5ad.map { _files -> true }.ifEmpty(false))
            .subscribe { _tables, made -> made ? null : log.warn('No h5ad/: beyond 50,000 cells it is written where --h5ad asks for it. multivi.h5mu holds the same cells') }
    }

    //
    // The page, and what a run must be repeated by
    //
    ch_told      = channel.topic('versions').toList()                // channel: [ [process, tool, version] ]
    ch_versions  = ch_told.map { triples -> versions_text(triples) } // channel: yaml text
    ch_resources = channel.topic('resources').map { cost -> cost instanceof List ? cost.last() : cost } // channel: *.resources.json
    REPORT(
        ch_embedding,
        ch_model,
        CONTROLS.out.table.ifEmpty([]),
        by_path(ch_qc),
        by_path(GATHER.out.imputed.map { _modality, store -> store }),
        by_path(ch_tables),
        by_path(ch_facts),
        by_path(ch_resources),
        ch_versions,
        parameters_text(settings),
    )
    ch_versions.subscribe { text -> write_info(settings, 'software_versions.yml', text) }
    ch_told.subscribe { triples -> write_info(settings, 'sbom.cdx.json', bill_text(triples)) }

    emit:
    REPORT.out.page // channel: report.html
}
